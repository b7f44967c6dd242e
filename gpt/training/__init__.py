"""How is a model trained, and how does a run go on after it was stopped?

batches.py           token files, and batches of windows of them
training_step.py     forward, loss, backward, clip, step, schedule
sums.py              the sums of a step's losses and metrics
training_loop.py     the loop: as a textbook has it, and as every run takes it
pretraining.py       a whole run: corpus, tokenizer, model, training, samples
pretraining_parts.py what it needs besides: the text as files of tokens, what is shown
run.py               a run and its folder: what the loop needs to be stopped and resumed
run_files.py         what it keeps in its folder beside its checkpoints
run_state.py         how far a run is: what a checkpoint keeps of it, as JSON
signals.py           Ctrl-C and other signals that ask a run to stop
run_folder.py        may a new run use a folder, and what becomes of the run that is there?
training_config.py   the settings of training, the optimizer and the schedule
evaluation.py        how good is a model? losses on held-out text
folder_lock.py       one writer per folder
checkpoint.py        save a run so it can continue exactly where it was
log.py               the output of a run: lines on the screen and in log.jsonl
plots.py             pictures of a run
data_parallel.py     several processes, one model
forked_team.py       those of one machine, which share memory
loading.py           load_model: a model by its name, run folder, Hugging Face folder or GGUF file
"""
