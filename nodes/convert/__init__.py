"""Between the host's layouts of pictures and sound and the core's; checks of sockets. Imports no host."""
