//! Building templates with progress that a person can follow.

use std::path::PathBuf;

use pvm_sandboxd::{Progress, Templates};

/// Makes sure that the template `name` is there: builds it, or waits for somebody else's build. Progress comes as lines
/// such as `40 % unpacking packages`. `dir` is the folder of the templates; the machine's own if none.
///
/// # Errors
/// Says which step failed and what to do.
pub async fn ensure(
    name: &str,
    dir: Option<PathBuf>,
    progress: impl Fn(&str) + Send + 'static,
) -> anyhow::Result<()> {
    let name = name.to_owned();
    let dir = dir.unwrap_or_else(pvm_sandboxd::default_template_dir);
    let built = tokio::task::spawn_blocking(move || {
        let templates = Templates::open(&dir)?;
        if templates.status(&name)?.ready {
            return Ok(());
        }
        let show = |step: Progress| progress(&format!("{:>3.0} % {}", step.fraction * 100.0, step.step));
        templates.build(&name, &show)?;
        anyhow::Ok(())
    });
    built.await?
}
