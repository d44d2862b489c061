"""What can be known of the CUDA kernels without a GPU: registers, local memory, instructions, estimated times."""
