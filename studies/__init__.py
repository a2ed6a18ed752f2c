"""What helps on a glacier that a model has never seen: models and training options, one by one."""
