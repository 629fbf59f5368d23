//! Core modules become components.

use wit_bindgen_core::wit_parser::{Resolve, WorldId};
use wit_component::{ComponentEncoder, StringEncoding};

use super::error::Error;

/// Stands in for WASI where a language's runtime insists on it. What is in it says why.
const ADAPTER: &str = include_str!("wasi-stub.wat");

/// What the adapter stands in for.
const WASI: &str = "wasi_snapshot_preview1";

/// Packs a core module. The world is that of a module that doesn't carry it, as what Go makes doesn't.
pub(super) fn pack(core: Vec<u8>, world: Option<(&Resolve, WorldId)>) -> Result<Vec<u8>, Error> {
    packed(core, world).map_err(|cause| Error::Step { step: "the core module can't be packed into a component", cause })
}

fn packed(mut core: Vec<u8>, world: Option<(&Resolve, WorldId)>) -> Result<Vec<u8>, String> {
    if let Some((resolve, world)) = world {
        wit_component::embed_component_metadata(&mut core, resolve, world, StringEncoding::UTF8)
            .map_err(|error| format!("{error:#}"))?;
    }
    let adapter = wat::parse_str(ADAPTER).map_err(|error| error.to_string())?;
    let mut encoder = ComponentEncoder::default();
    // What of the adapter the module doesn't import is left out, all of it if need be.
    let encoder = encoder.validate(true).module(&core).and_then(|encoder| encoder.adapter(WASI, &adapter));
    let encoded = encoder.and_then(|encoder| encoder.encode());
    encoded.map_err(|error| format!("{error:#}"))
}

/// Whether it is a core module, which is still to be packed.
pub(super) fn is_core_module(wasm: &[u8]) -> bool {
    wasm.starts_with(b"\0asm\x01\0\0\0")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A resolver with a world that exports one function, and that world.
    fn world() -> (Resolve, WorldId) {
        let mut resolve = Resolve::default();
        let package = resolve.push_str("w.wit", "package t:t; world w { export answer: func() -> u32; }").unwrap();
        let world = resolve.select_world(&[package], Some("w")).unwrap();
        (resolve, world)
    }

    fn packed(wat: &str) -> Result<Vec<u8>, Error> {
        let (resolve, world) = world();
        pack(wat::parse_str(wat).unwrap(), Some((&resolve, world)))
    }

    const ANSWER: &str = r#"(func (export "answer") (result i32) i32.const 42)"#;

    #[test]
    fn a_module_becomes_a_component_that_imports_nothing() {
        let plain = format!("(module {ANSWER})");
        let clock = r#"(import "wasi_snapshot_preview1" "clock_time_get" (func (param i32 i64 i32) (result i32)))"#;
        let files = r#"(import "wasi_snapshot_preview1" "fd_write" (func (param i32 i32 i32 i32) (result i32)))"#;
        let with_wasi = format!(r#"(module {clock} {files} (memory (export "memory") 1) {ANSWER})"#);
        for module in [plain, with_wasi] {
            let component = packed(&module).unwrap();
            assert!(!is_core_module(&component) && component.starts_with(b"\0asm"));
            let wit_component::DecodedWasm::Component(resolve, world) = wit_component::decode(&component).unwrap()
            else {
                panic!("not a component");
            };
            let world = &resolve.worlds[world];
            assert!(world.imports.is_empty(), "{:?}", world.imports);
            assert_eq!(world.exports.len(), 1);
        }
    }

    #[test]
    fn what_does_not_fit_is_said() {
        let files = r#"(import "wasi_snapshot_preview1" "sock_open" (func))"#;
        let unknown = format!(r#"(module {files} (memory (export "memory") 1) {ANSWER})"#);
        for (module, words) in [
            ("(module)", "answer"),
            (r#"(module (func (export "answer") (result i64) i64.const 1))"#, "answer"),
            (r#"(module (import "env" "x" (func)))"#, "env"),
            (unknown.as_str(), "sock_open"),
        ] {
            let error = packed(module).unwrap_err().to_string();
            assert!(error.starts_with("the core module can't be packed"), "{error}");
            assert!(error.contains(words), "{module}: {error}");
        }
    }

    #[test]
    fn the_two_kinds_are_told_apart() {
        assert!(is_core_module(&wat::parse_str("(module)").unwrap()));
        assert!(!is_core_module(b"\0asm\x0d\0\x01\0"));
    }
}
