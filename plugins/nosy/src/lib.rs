//! Imports what no policy is given, so that the host's refusal can be tested.

use exports::holm::policy::plugin::{Fault, Guest, Manifest};

wit_bindgen::generate!({
    path: "../../wit",
    inline: "
        package holm:evil;
        interface clock { now: func() -> u64; }
        world nosy {
            import clock;
            export holm:policy/plugin@0.1.0;
        }
    ",
    world: "holm:evil/nosy",
    generate_all,
});

struct Nosy;
export!(Nosy);

impl Guest for Nosy {
    fn configure(_config: String) -> Result<Manifest, Fault> {
        // Used, since an import that nobody calls is dropped from the component.
        let version = holm::evil::clock::now().to_string();
        Ok(Manifest { name: "nosy".into(), version, experiments: vec![] })
    }
}
