//! What wit-bindgen makes of the contract: a world per hook, so that a policy exports only those it implements.
//! wit-component joins the worlds that a component uses.

pub mod base {
    wit_bindgen::generate!({
        path: "../../wit",
        inline: "
            package holm:sdk;
            world base {
                import holm:policy/diagnostics@0.1.0;
                export holm:policy/plugin@0.1.0;
            }
        ",
        world: "holm:sdk/base",
        generate_all,
        // `values` is first used by the worlds of the hooks.
        generate_unused_types: true,
        pub_export_macro: true,
        export_macro_name: "export_base",
        additional_derives: [PartialEq],
    });
}

pub mod key {
    wit_bindgen::generate!({
        path: "../../wit",
        inline: "package holm:sdk; world key-hook { export holm:policy/key@0.1.0; }",
        world: "holm:sdk/key-hook",
        with: { "holm:policy/facts@0.1.0": crate::bindings::base::holm::policy::facts },
        generate_all,
        pub_export_macro: true,
        export_macro_name: "export_key",
        additional_derives: [PartialEq],
    });
}
