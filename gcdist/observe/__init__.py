"""The run's event stream: written to the run's folder and to the terminal, read by reports."""
