"""What each node does: sockets in, a core job, sockets out."""
