// Umbra's first instructions: the arm64 Image header, entry at EL2 with the MMU off, and the entry of secondaries.
// Registers at entry (Linux, Documentation/arch/arm64/booting): x0 = physical address of the device tree.

.section .head, "ax"
.global _start
_start:
    b       primary_entry
    .word   0
    .quad   0                       // text_offset: none, any 2 MiB boundary will do
    .quad   __image_size            // memory the image needs, .bss and stacks included
    .quad   0xa                     // flags: little-endian, 4 KiB pages, placement anywhere
    .quad   0
    .quad   0
    .quad   0
    .ascii  "ARM\x64"
    .word   0

primary_entry:
    msr     daifset, #0xf
    mov     x19, x0
    adr     x20, _start             // load address: the image is linked at 0
    mrs     x21, CurrentEL
    ubfx    x21, x21, #2, #2
    cmp     x21, #2
    b.ne    1f
    adrp    x0, el2_vectors
    add     x0, x0, :lo12:el2_vectors
    msr     vbar_el2, x0
    adrp    x0, {boot_cpu}
    add     x0, x0, :lo12:{boot_cpu}
    msr     tpidr_el2, x0
    isb
1:
    // What the loader's caches still hold of the image is older than memory: it was cleaned, as the boot protocol asks. It is
    // dropped where EL2 writes with its caches off, and nothing comes into them before they are on.
    mrs     x0, ctr_el0
    ubfx    x0, x0, #16, #4
    mov     x2, #4
    lsl     x2, x2, x0              // smallest data cache line, bytes
    adrp    x0, __data_end
    add     x0, x0, :lo12:__data_end
    adrp    x1, __image_end
    bl      invalidate

    adrp    x0, __bss_start
    add     x0, x0, :lo12:__bss_start
    adrp    x1, __bss_end
    add     x1, x1, :lo12:__bss_end
2:  stp     xzr, xzr, [x0], #16     // whole lines of 64 bytes, and at least one
    stp     xzr, xzr, [x0], #16
    stp     xzr, xzr, [x0], #16
    stp     xzr, xzr, [x0], #16
    cmp     x0, x1
    b.lo    2b
    bl      relocate
    dsb     sy
    // Instruction fetches may have been ahead, into the constants and the data that the relocations changed.
    adrp    x0, __text_end
    adrp    x1, __data_end
    add     x1, x1, :lo12:__data_end
    bl      invalidate
    ic      iallu
    dsb     sy
    isb

    mov     x0, #1
    msr     spsel, x0
    adrp    x0, __boot_stack_top
    mov     sp, x0
    cmp     x21, #2
    b.ne    6f
    adrp    x0, {boot_cpu}
    add     x0, x0, :lo12:{boot_cpu}
    adrp    x1, __boot_emergency_top
    str     x1, [x0, {emergency}]
6:
    mov     x0, x19
    mov     x1, x20
    mov     x2, x21
    mov     x29, xzr
    bl      {primary}
7:  wfi
    b       7b

// Invalidates [x0, x1) to the point of coherency, by lines of x2 bytes, sixteen at a time as far as that goes.
invalidate:
    sub     x3, x2, #1
    bic     x0, x0, x3
    lsl     x3, x2, #4
1:  sub     x4, x1, x0
    cmp     x4, x3
    b.lo    2f
    .rept   16
    dc      ivac, x0
    add     x0, x0, x2
    .endr
    b       1b
2:  cmp     x0, x1
    b.hs    3f
    dc      ivac, x0
    add     x0, x0, x2
    b       2b
3:  dsb     sy
    ret

// The relocations, how other pCPUs begin, and how the MMU comes on are in trap.s, where the vectors leave room.
