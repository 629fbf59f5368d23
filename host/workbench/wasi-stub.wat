;; WASI for policies: nothing is there, time stands still, and what is written is gone.
;;
;; A policy has no clock, no randomness and no files. The libraries of C and Go link functions of WASI all the same and
;; call some of them: when they start, when they collect garbage, when they print. With these they go on, and the
;; component imports nothing of WASI. Each works in the module's own memory and calls nobody, because some are called
;; while the host waits for memory (`cabi_realloc`), when a component must not call out.
;;
;; The results are WASI's error numbers: 0 is success, 8 is "no such file descriptor", 28 is "not allowed as an argument".
(module
  (import "env" "memory" (memory 0))

  ;; There is one thread.
  (func (export "sched_yield") (result i32) i32.const 0)

  ;; To exit ends the call, as a trap.
  (func (export "proc_exit") (param $code i32) unreachable)

  ;; No arguments, no environment: none of them, and 0 bytes of text.
  (func $sizes (param $count i32) (param $bytes i32) (result i32)
    (i32.store (local.get $count) (i32.const 0))
    (i32.store (local.get $bytes) (i32.const 0))
    i32.const 0)
  (func (export "args_sizes_get") (param i32 i32) (result i32) (call $sizes (local.get 0) (local.get 1)))
  (func (export "args_get") (param i32 i32) (result i32) i32.const 0)
  (func (export "environ_sizes_get") (param i32 i32) (result i32) (call $sizes (local.get 0) (local.get 1)))
  (func (export "environ_get") (param i32 i32) (result i32) i32.const 0)

  ;; It is always one second after 1970 began: not 0, which some take for "no clock".
  (func (export "clock_time_get") (param $clock i32) (param $precision i64) (param $time i32) (result i32)
    (i64.store (local.get $time) (i64.const 1000000000))
    i32.const 0)
  (func (export "clock_res_get") (param $clock i32) (param $resolution i32) (result i32)
    (i64.store (local.get $resolution) (i64.const 1))
    i32.const 0)

  ;; The runtime that comes with wit-bindgen for Go asks for it: to stop a clock that stands still anyway.
  (func (export "adapter_monotonic_clock_set_paused") (param $paused i32))

  ;; Bytes that look random and are the same each time: byte i is (i + 0x9e37) * 0x79b1.
  (func (export "random_get") (param $at i32) (param $length i32) (result i32)
    (local $i i32)
    (block $done
      (loop $next
        (br_if $done (i32.ge_u (local.get $i) (local.get $length)))
        (i32.store8
          (i32.add (local.get $at) (local.get $i))
          (i32.mul (i32.add (local.get $i) (i32.const 0x9e37)) (i32.const 0x79b1)))
        (local.set $i (i32.add (local.get $i) (i32.const 1)))
        (br $next)))
    i32.const 0)

  ;; Whatever is written counts as written: the lengths of all pieces (each is an address and a length) are summed up.
  (func (export "fd_write") (param $fd i32) (param $piece i32) (param $pieces i32) (param $written i32) (result i32)
    (local $sum i32)
    (block $done
      (loop $next
        (br_if $done (i32.eqz (local.get $pieces)))
        (local.set $sum (i32.add (local.get $sum) (i32.load offset=4 (local.get $piece))))
        (local.set $piece (i32.add (local.get $piece) (i32.const 8)))
        (local.set $pieces (i32.sub (local.get $pieces) (i32.const 1)))
        (br $next)))
    (i32.store (local.get $written) (local.get $sum))
    i32.const 0)

  ;; No file is open, and none can be opened.
  (func (export "fd_close") (param i32) (result i32) i32.const 8)
  (func (export "fd_fdstat_get") (param i32 i32) (result i32) i32.const 8)
  (func (export "fd_fdstat_set_flags") (param i32 i32) (result i32) i32.const 8)
  (func (export "fd_prestat_get") (param i32 i32) (result i32) i32.const 8)
  (func (export "fd_prestat_dir_name") (param i32 i32 i32) (result i32) i32.const 8)
  (func (export "fd_read") (param i32 i32 i32 i32) (result i32) i32.const 8)
  (func (export "fd_seek") (param i32 i64 i32 i32) (result i32) i32.const 8)

  ;; Waiting is over at once: the first thing waited for has happened, without an error. An event begins with the
  ;; subscription's own word of eight bytes; its error and kind follow.
  (func (export "poll_oneoff") (param $waited i32) (param $events i32) (param $count i32) (param $happened i32) (result i32)
    (if (result i32) (i32.eqz (local.get $count))
      (then (i32.const 28))
      (else
        (i64.store (local.get $events) (i64.load (local.get $waited)))
        (i64.store offset=8 (local.get $events) (i64.const 0))
        (i32.store (local.get $happened) (i32.const 1))
        (i32.const 0))))
)
