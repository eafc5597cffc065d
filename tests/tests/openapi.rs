//! The OpenAPI document that is checked in is the one that the code makes. `UPDATE=1` writes it anew.

#[test]
fn the_document_in_the_repository_is_current() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../openapi.json");
    let mut made = serde_json::to_string_pretty(&pvm_api::openapi::document()).unwrap();
    made.push('\n');
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(path, made).unwrap();
        return;
    }
    let known = std::fs::read_to_string(path).unwrap();
    assert!(known == made, "openapi.json is not current: run `make generate` and commit it");
}
