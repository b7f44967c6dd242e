"""The road after pretraining: classification, instruction tuning, preference optimisation, adapters, quantization."""
