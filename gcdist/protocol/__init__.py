"""The round protocol: two pure state machines, events in and instructions out."""
