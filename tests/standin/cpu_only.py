"""Tests that do not run on the second device, and why: patterns of what pytest calls them, behind `tests/`."""

CPU_ONLY = {
    # about the CPU
    "minigrad/test_kernels.py::*": "the CPU's fast kernels",
    "minigrad/test_cuda_*": "brings a device of its own",
    "*/test_*_cuda.py::*": "brings a device of its own",
    "*/test_*_on_gpu.py::*": "brings a device of its own",
    "test_standin.py::*": "brings devices of its own",
    "minigrad/test_backend.py::*": "brings devices of its own",
    "gpt/test_data_parallel.py::*": "runs in other processes",
    "minigrad/test_precision.py::test_kernels_are_still_found_after_autocast": "the CPU's fast kernels",
    "minigrad/test_inspection_profile.py::test_fused_kernels_count_what_they_fuse": "the CPU's fast kernels",
    "minigrad/test_inspection_memory.py::test_arrays_in_objects_are_found": "the CPU's fast kernels",
    "minigrad/test_inspection_memory.py::test_it_agrees_with_what_python_has_allocated": "counts the host's memory",
    "minigrad/test_autograd.py::test_a_tied_embedding_never*": "counts the host's memory",
    "gpt/test_accounting.py::test_training_memory_is*": "expects NumPy arrays",
    "gpt/test_accounting.py::test_activations*-fast]": "the CPU's fast kernels",
    "gpt/test_checkpoint.py::test_weights_with_other_names*": "expects NumPy arrays",
    "gpt/test_evaluation.py::test_the_mean_is_over_tokens_and_not*": "expects NumPy arrays",
    "finetune/test_qlora.py::test_the_peak_of_a_step*": "counts the host's memory",
    "finetune/test_quant_layers.py::test_the_floats_of_the_weight*": "counts the host's memory",
    # about texts and files
    **{
        f"{file}.py::*": "has nothing to do with arrays on a device"
        for file in (
            *("gpt/test_bpe", "gpt/test_tokenizer", "gpt/test_smollm_tokenizer", "gpt/test_token_view"),
            *("gpt/test_data", "gpt/test_hub", "gpt/test_source_code", "gpt/test_gguf_file"),
            *("finetune/test_chat", "finetune/test_jinja_template", "finetune/test_datasets", "finetune/test_tasks"),
        )
    },
    # about NumPy's arrays: shared, read-only, or at an address
    "minigrad/test_autograd.py::test_gradients_add_up_over_separate_graphs": "looks at a NumPy array's address",
    "minigrad/test_autograd.py::test_a_new_gradient_becomes_grad*": "looks at a NumPy array's address",
    "minigrad/test_autograd.py::test_gradients_are_brought_to_the_dtype*": "expects NumPy arrays",
    "minigrad/test_autograd.py::test_only_wanted_gradients_are_computed": "an op that makes NumPy arrays",
    "minigrad/test_diagnosis.py::*dout ignored by a loss*": "an op that makes NumPy arrays",
    "minigrad/test_diagnosis.py::*cat forgets the last row*": "an op that makes NumPy arrays",
    "minigrad/test_diagnosis.py::test_overwritten_accumulation*": "an op that makes NumPy arrays",
    "minigrad/test_gradcheck.py::test_nothing_of_the_callers_is_changed": "expects NumPy arrays",
    "minigrad/test_gradcheck.py::test_writing_to_an_input*": "CuPy has no read-only arrays",
    "minigrad/test_gradcheck.py::test_memory_layouts*": "moving an array makes it contiguous",
    "minigrad/test_optim.py::test_steps_are_in_place*": "expects NumPy arrays",
    "minigrad/test_nn.py::test_casting_keeps_ties_and_integers": "moves the model to the CPU",
    "minigrad/test_ops_values.py::test_a_frozen_operand_costs_nothing*": "calls backward with NumPy arrays",
    "minigrad/test_tensor.py::test_dtypes_of_new_tensors*": "expects NumPy arrays",
    "minigrad/test_tensor.py::test_an_array_is_shared_and_not_copied": "expects NumPy arrays",
    "minigrad/test_tensor.py::test_asarray_refuses*": "expects NumPy arrays",
    "minigrad/test_tensor.py::test_a_tensor_of_tensors": "CuPy refuses implicit conversion",
    # on a GPU indices are not looked at: that would wait for it
    "minigrad/test_nn.py::test_embedding_with_padding": "ids are checked on the host only",
    "finetune/test_quant_blocks.py::test_the_numbers_are_those*": "indexes with arrays of the host",
    "finetune/test_quant_layers.py::test_embedding_and_output*": "ids are checked on the host only",
    # what moving a test to the device itself disturbs
    "minigrad/test_autograd.py::test_backward_takes_a_gradient*gradient[14]]": "its tensors were made on the CPU",
    "minigrad/test_autograd.py::test_where_backward_cannot_start": "its tensors were made on the CPU",
    "minigrad/test_autograd.py::test_changing_weights_between*": "its tensors were made on the CPU",
    "finetune/test_adapters.py::test_adapters_that_peft_saved*": "a model from a file, which is on the CPU",
    "finetune/test_*.py::test_folding_scales_changes*": "calls a part of a model with arrays of the host",
    "gpt/test_llama.py::test_the_model_sees_distances_only": "calls a part of a model with arrays of the host",
    "gpt/test_llama_files.py::test_training_starts_from_a_llama*": "compares with a run in another process",
    "gpt/test_verification.py::test_a_mistake_is_found*": "puts parts of its own into a model from a file",
    "minigrad/test_inspection_anomaly.py::*line*": "the call goes through second_device.py",
    "minigrad/test_inspection_anomaly.py::test_writing_to_a_saved_array_is_caught": "as before",
    "minigrad/test_ops_values.py::test_a_number_never_widens*clip*": "compares functions by identity",
    "minigrad/test_ops_values.py::test_a_number_never_widens*div*": "compares functions by identity",
    "minigrad/test_ops_values.py::test_attention_dropout_keeps*": "its bound fits NumPy's random numbers",
}
