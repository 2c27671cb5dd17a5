class _Arguments:
    preview_size: int
    disable_metadata: bool

args: _Arguments
