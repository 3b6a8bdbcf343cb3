"""What happened to each block, in logs that survive whatever happens to the processes that write them."""
