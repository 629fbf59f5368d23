;; What the canonical ABI wants of a module that is handed lists: memory that is never given back. Tests write out modules
;; with it.
(global $free (mut i32) (i32.const 65536))
(func (export "cabi_realloc") (param i32 i32 i32) (param $new i32) (result i32)
    (local $at i32)
    (local.set $at (i32.and (i32.add (global.get $free) (i32.const 7)) (i32.const -8)))
    (global.set $free (i32.add (local.get $at) (local.get $new)))
    (local.get $at))
