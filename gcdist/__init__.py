"""gcdist: coded, quantized distributed training that does not wait for stragglers."""
