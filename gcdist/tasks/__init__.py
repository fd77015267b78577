"""What is trained: the adapter for anybody's module and data, and the embedded tasks."""
