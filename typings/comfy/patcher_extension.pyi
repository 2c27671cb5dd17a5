from typing import Any

def copy_nested_dicts(input_dict: dict[str, Any]) -> dict[str, Any]: ...

class WrappersMP:
    OUTER_SAMPLE: str
    DIFFUSION_MODEL: str
