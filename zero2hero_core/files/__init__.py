"""Files are written whole or not at all: JSON, tensors, pictures, videos."""
