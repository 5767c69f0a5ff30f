// What compiled code calls to move and fill memory. Also before the MMU is on, when an access must be aligned: by pairs of
// doublewords where the addresses are multiples of 8, by words where of 4, else by bytes.

.section .text.mem, "ax"

// x0 = memcpy(x0 = to, x1 = from, x2 = bytes)
.global memcpy
.type memcpy, %function
memcpy:
    mov     x3, x0
    orr     x4, x0, x1
    tst     x4, #7
    b.ne    5f
    subs    x2, x2, #32
    b.lo    1f
0:  ldp     x4, x5, [x1], #16
    ldp     x6, x7, [x1], #16
    stp     x4, x5, [x3], #16
    stp     x6, x7, [x3], #16
    subs    x2, x2, #32
    b.hs    0b
1:  and     x2, x2, #31
    tbz     x2, #4, 1f
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
5:  tst     x4, #3
    b.ne    2b
6:  subs    x2, x2, #4
    b.lo    7f
    ldr     w4, [x1], #4
    str     w4, [x3], #4
    b       6b
7:  and     x2, x2, #3
    b       2b
.size memcpy, . - memcpy

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

// x0 = memset(x0 = to, w1 = byte, x2 = bytes)
.global memset
.type memset, %function
memset:
    mov     x3, x0
    tst     x0, #7
    b.ne    2f
    and     x1, x1, #0xff
    orr     x1, x1, x1, lsl #8
    orr     x1, x1, x1, lsl #16
    orr     x1, x1, x1, lsl #32
    subs    x2, x2, #64
    b.lo    1f
0:  stp     x1, x1, [x3], #16
    stp     x1, x1, [x3], #16
    stp     x1, x1, [x3], #16
    stp     x1, x1, [x3], #16
    subs    x2, x2, #64
    b.hs    0b
1:  ands    x2, x2, #63
2:  cbz     x2, 5f
    orr     x4, x2, x3
    tst     x4, #7
    b.ne    4f
3:  str     x1, [x3], #8
    subs    x2, x2, #8
    b.ne    3b
    ret
4:  strb    w1, [x3], #1
    subs    x2, x2, #1
    b.ne    4b
5:  ret
.size memset, . - memset
