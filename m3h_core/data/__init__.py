"""What a model learns from: tasks, samples, and the tensors that training reads."""
