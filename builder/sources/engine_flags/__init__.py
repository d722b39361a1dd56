"""What `vllm serve` of a release takes, read in its Python sources without running them."""
