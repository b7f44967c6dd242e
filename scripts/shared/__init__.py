"""What do commands share?

The files, in reading order:

    command_line.py        options with the same names and meanings, or made from settings; errors in one sentence
    terminal.py            wrapped text and Ctrl-C, for chat.py
    web_page.py            the shell of every page: style, scripts and data in one file; look.css is the style of all
    stage_options.py       the options of a training stage, running it, and what to type next
    will_it_fit.py         --will-it-fit: memory and time, from a few steps
    verification.py        two computations of the same model, side by side: the first number that differs
    traced_memory.py       the memory that a piece of work needs, for the next one and quantize.py
    method_comparison.py   lora.py --compare: full, LoRA and QLoRA in one table
    doctor.py              what setup.py doctor checks: matrix products, and the CUDA extra for the graphics card
"""
