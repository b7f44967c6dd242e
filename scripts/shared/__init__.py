"""What do commands share?

The files, in reading order:

    command_line.py        options with the same names and meanings in all commands; errors in one sentence
    settings_options.py    options made from the fields of a settings class
    stage_options.py       the options of a training stage, and running it
    trial.py               --will-it-fit: memory and time, from a few steps
    next_steps.py          what a run ends with: what to type next
    terminal.py            text that is wrapped while it comes
    exporting.py           a model as a folder or a GGUF file for other programs
    verification.py        two computations of the same model, side by side: the first number that differs
    method_comparison.py   lora.py --compare: full, LoRA and QLoRA in one table
    pipeline_stages.py     the stages of pipeline.py, and which are finished
    pipeline_table.py      its table
    moved.py               names of before the rooms moved, which work for one release
    doctor.py              what setup.py doctor checks: matrix products, and the CUDA extra for the graphics card
"""
