// Package runtime is the memory between the host and the generated bindings. It stands in for wit-bindgen's package of
// that name, which would have to be downloaded.
package runtime

import (
	"runtime"
	"unsafe"
)

// The memory that the host has been given, until the bindings have taken it over. The collector doesn't move what is
// on the heap, so that to hold a pointer is enough.
var held []unsafe.Pointer

// Allocate makes memory for a result, pinned until the host has read it.
func Allocate(pinner *runtime.Pinner, size, align uintptr) unsafe.Pointer {
	memory := allocate(size)
	pinner.Pin(memory)
	return memory
}

// Unpin lets go of a call's arguments: from here on, only the policy holds them.
func Unpin() {
	clear(held)
	held = held[:0]
}

// Words of eight bytes, as nothing in the contract is aligned to more.
func allocate(size uintptr) unsafe.Pointer {
	return unsafe.Pointer(unsafe.SliceData(make([]uint64, (size+7)/8)))
}

//go:wasmexport cabi_realloc
func reallocate(old unsafe.Pointer, oldSize, align, size uintptr) unsafe.Pointer {
	memory := allocate(size)
	copy(unsafe.Slice((*byte)(memory), size), unsafe.Slice((*byte)(old), oldSize))
	held = append(held, memory)
	return memory
}
