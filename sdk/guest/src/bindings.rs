//! The generated side of the contract in `wit/`: the only file that sees WIT, and the only one where `unsafe` may appear.
//!
//! The worlds of the contract overlap (each has the interfaces `module`, `log` and `types`), and generated export macros live at
//! the crate's root, where names may not repeat. So the worlds are generated in parts that do not overlap, one per exported
//! interface; [`crate::export!`] puts a world together from `module` and one more, and the component that results is the same.
#![allow(missing_docs, unreachable_pub, unsafe_code, unused_qualifications, clippy::all)]

/// What every module exports, and what it may import: `describe`, `init`; `log`, `metrics`.
pub mod module {
    wit_bindgen::generate!({
        path: "../../wit",
        world: "base",
        pub_export_macro: true,
        export_macro_name: "__export_module",
    });
}

/// `select`, of the world `filter`.
pub mod selector {
    wit_bindgen::generate!({
        path: "../../wit",
        inline: "package millstream:guest-selector; world selector-part { export millstream:ext/selector@0.1.0; }",
        pub_export_macro: true,
        export_macro_name: "__export_selector",
        with: { "millstream:ext/types@0.1.0": crate::bindings::module::millstream::ext::types },
    });
}

/// `assign`, of the world `partitioner`.
pub mod assigner {
    wit_bindgen::generate!({
        path: "../../wit",
        inline: "package millstream:guest-assigner; world assigner-part { export millstream:ext/assigner@0.1.0; }",
        pub_export_macro: true,
        export_macro_name: "__export_assigner",
        with: { "millstream:ext/types@0.1.0": crate::bindings::module::millstream::ext::types },
    });
}

/// `process` and the sink that it writes to, of the world `mapper`; a transform without state or timers is one, too.
pub mod processor {
    wit_bindgen::generate!({
        path: "../../wit",
        inline: "package millstream:guest-processor;
            world processor-part { import millstream:ext/sink@0.1.0; export millstream:ext/processor@0.1.0; }",
        pub_export_macro: true,
        export_macro_name: "__export_processor",
        with: {
            "millstream:ext/types@0.1.0": crate::bindings::module::millstream::ext::types,
            "millstream:ext/sink@0.1.0": generate,
        },
    });
}
