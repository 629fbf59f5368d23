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
        // `inputs` and `values` are first used by the worlds of the hooks.
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

pub mod features {
    wit_bindgen::generate!({
        path: "../../wit",
        inline: "package holm:sdk; world features-hook { export holm:policy/features@0.1.0; }",
        world: "holm:sdk/features-hook",
        with: { "holm:policy/facts@0.1.0": crate::bindings::base::holm::policy::facts },
        generate_all,
        pub_export_macro: true,
        export_macro_name: "export_features",
        additional_derives: [PartialEq],
    });
}

pub mod admit {
    wit_bindgen::generate!({
        path: "../../wit",
        inline: "package holm:sdk; world admit-hook { export holm:policy/admit@0.1.0; }",
        world: "holm:sdk/admit-hook",
        with: { "holm:policy/facts@0.1.0": crate::bindings::base::holm::policy::facts },
        generate_all,
        pub_export_macro: true,
        export_macro_name: "export_admit",
        additional_derives: [PartialEq],
    });
}

pub mod route {
    wit_bindgen::generate!({
        path: "../../wit",
        inline: "package holm:sdk; world route-hook { export holm:policy/route@0.1.0; }",
        world: "holm:sdk/route-hook",
        with: { "holm:policy/facts@0.1.0": crate::bindings::base::holm::policy::facts },
        generate_all,
        pub_export_macro: true,
        export_macro_name: "export_route",
        additional_derives: [PartialEq],
    });
}

pub mod batch {
    wit_bindgen::generate!({
        path: "../../wit",
        inline: "package holm:sdk; world batch-hook { export holm:policy/batch@0.1.0; }",
        world: "holm:sdk/batch-hook",
        with: { "holm:policy/facts@0.1.0": crate::bindings::base::holm::policy::facts },
        generate_all,
        pub_export_macro: true,
        export_macro_name: "export_batch",
        additional_derives: [PartialEq],
    });
}

pub mod prefetch {
    wit_bindgen::generate!({
        path: "../../wit",
        inline: "package holm:sdk; world prefetch-hook { export holm:policy/prefetch@0.1.0; }",
        world: "holm:sdk/prefetch-hook",
        with: { "holm:policy/facts@0.1.0": crate::bindings::base::holm::policy::facts },
        generate_all,
        pub_export_macro: true,
        export_macro_name: "export_prefetch",
        additional_derives: [PartialEq],
    });
}
