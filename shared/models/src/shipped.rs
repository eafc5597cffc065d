//! Recordings that ship with every program that calls models, so that the demo can be played in each form of the system.

use crate::{Library, Recording};

/// They lie beside the demo, which checks what they bring about.
const RECORDINGS: [&str; 2] = [
    include_str!("../../../infra/local/demo/flask-app.json"),
    include_str!("../../../infra/local/demo/standard-library-app.json"),
];

impl Library {
    /// The recordings that ship with the program.
    ///
    /// # Errors
    /// One of them is broken; a test sees to it that none is.
    pub fn shipped() -> Result<Self, serde_json::Error> {
        let recordings: Result<Vec<Recording>, _> =
            RECORDINGS.iter().map(|text| serde_json::from_str(text)).collect();
        recordings.map(Self::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_recordings_can_be_played() {
        let library = Library::shipped().unwrap();
        assert!(library.find("Build a Flask web app with user authentication", true).is_some());
    }
}
