"""How does a model learn to write?

    corpora.py         texts to train on: built in (standard_library.py), downloaded, or your own
    batches.py         token files, and batches of windows of them
    training_step.py   forward, loss, backward, clip, step, schedule
    steps.py           the numbers of a step, which are read late on a GPU
    trainer.py         the training loop around the step: evaluations, checkpoints, Ctrl-C, resuming
    evaluation.py      how good is a model? losses on held-out text
    folder_lock.py     one writer per folder
    checkpoint.py      save a run so it can continue exactly where it was
    log.py             the output of a run: lines on the screen and in log.jsonl
    plots.py           pictures of a run
    data_parallel.py   several processes, one model
    pretraining.py     a whole run: corpus, tokenizer, model, training, samples
    loading.py         a model by its name, run folder, Hugging Face folder or GGUF file
"""
