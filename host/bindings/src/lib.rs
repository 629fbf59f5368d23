//! The host side of `wit/policy.wit`, as `wasmtime::component::bindgen!` writes it.

wasmtime::component::bindgen!({
    path: "../../wit",
    world: "policy",
    // What is handed to a policy is borrowed: an input goes from the request into the guest's memory with one copy.
    ownership: Borrowing { duplicate_if_necessary: false },
});
