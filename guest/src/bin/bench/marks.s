// Stand at both sides of what is measured, so that a trace shows where it begins and ends.
.section .text.bench_marks, "ax"
.global bench_begin
bench_begin:
    ret
.global bench_end
bench_end:
    ret
