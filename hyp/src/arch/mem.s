// What compiled code calls to move and fill memory. Also before the MMU is on, when an access must be aligned: by pairs of
// doublewords where both addresses are as far from a multiple of 8, by pairs of words where both are multiples of 4, else by bytes.

.section .text.mem, "ax"

// x0 = memcpy(x0 = to, x1 = from, x2 = bytes)
.global memcpy
.type memcpy, %function
memcpy:
    mov     x3, x0
    orr     x4, x0, x1
    tst     x4, #7
    b.ne    5f
10: subs    x2, x2, #128
    b.lo    1f
0:  .rept   4
    ldp     x4, x5, [x1], #16
    ldp     x6, x7, [x1], #16
    stp     x4, x5, [x3], #16
    stp     x6, x7, [x3], #16
    .endr
    subs    x2, x2, #128
    b.hs    0b
1:  tbz     x2, #6, 1f
    .rept   2
    ldp     x4, x5, [x1], #16
    ldp     x6, x7, [x1], #16
    stp     x4, x5, [x3], #16
    stp     x6, x7, [x3], #16
    .endr
1:  tbz     x2, #5, 1f
    ldp     x4, x5, [x1], #16
    ldp     x6, x7, [x1], #16
    stp     x4, x5, [x3], #16
    stp     x6, x7, [x3], #16
1:  tbz     x2, #4, 1f
    ldp     x4, x5, [x1], #16
    stp     x4, x5, [x3], #16
1:  tbz     x2, #3, 1f
    ldr     x4, [x1], #8
    str     x4, [x3], #8
1:  and     x2, x2, #7
2:  cbz     x2, 4f
3:  ldrb    w4, [x1], #1
    strb    w4, [x3], #1
    subs    x2, x2, #1
    b.ne    3b
4:  ret
5:  eor     x5, x0, x1
    tst     x5, #7
    b.ne    6f
0:  cbz     x2, 4b
    ldrb    w4, [x1], #1
    strb    w4, [x3], #1
    sub     x2, x2, #1
    tst     x3, #7
    b.ne    0b
    b       10b
6:  tst     x4, #3
    b.ne    2b
    subs    x2, x2, #32
    b.lo    7f
0:  ldp     w4, w5, [x1], #8
    ldp     w6, w7, [x1], #8
    ldp     w8, w9, [x1], #8
    ldp     w10, w11, [x1], #8
    stp     w4, w5, [x3], #8
    stp     w6, w7, [x3], #8
    stp     w8, w9, [x3], #8
    stp     w10, w11, [x3], #8
    subs    x2, x2, #32
    b.hs    0b
7:  and     x2, x2, #31
8:  subs    x2, x2, #4
    b.lo    9f
    ldr     w4, [x1], #4
    str     w4, [x3], #4
    b       8b
9:  and     x2, x2, #3
    b       2b
.size memcpy, . - memcpy

.section .text.memmove, "ax"
// x0 = memmove(x0 = to, x1 = from, x2 = bytes): backward if `to` lies in the source.
.global memmove
.type memmove, %function
memmove:
    sub     x3, x0, x1
    cmp     x3, x2
    b.hs    memcpy
    orr     x4, x0, x1
    orr     x4, x4, x2
    tst     x4, #7
    b.ne    1f
0:  cbz     x2, 2f
    sub     x2, x2, #8
    ldr     x4, [x1, x2]
    str     x4, [x0, x2]
    b       0b
1:  sub     x2, x2, #1
    ldrb    w4, [x1, x2]
    strb    w4, [x0, x2]
    cbnz    x2, 1b
2:  ret
.size memmove, . - memmove

.section .text.memset, "ax"
// x0 = memset(x0 = to, w1 = byte, x2 = bytes)
.global memset
.type memset, %function
memset:
    mov     x3, x0
    and     x1, x1, #0xff
    orr     x1, x1, x1, lsl #8
    orr     x1, x1, x1, lsl #16
    orr     x1, x1, x1, lsl #32
0:  tst     x3, #7
    b.eq    1f
    cbz     x2, 4f
    strb    w1, [x3], #1
    sub     x2, x2, #1
    b       0b
1:  subs    x2, x2, #128
    b.lo    1f
0:  .rept   8
    stp     x1, x1, [x3], #16
    .endr
    subs    x2, x2, #128
    b.hs    0b
1:  tbz     x2, #6, 1f
    .rept   4
    stp     x1, x1, [x3], #16
    .endr
1:  tbz     x2, #5, 1f
    stp     x1, x1, [x3], #16
    stp     x1, x1, [x3], #16
1:  tbz     x2, #4, 1f
    stp     x1, x1, [x3], #16
1:  tbz     x2, #3, 1f
    str     x1, [x3], #8
1:  ands    x2, x2, #7
    b.eq    4f
0:  strb    w1, [x3], #1
    subs    x2, x2, #1
    b.ne    0b
4:  ret
.size memset, . - memset
