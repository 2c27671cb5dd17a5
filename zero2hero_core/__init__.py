"""Zero-to-Hero: give a whole video the look of one edited frame.

The method without ComfyUI. Importing this package loads nothing else; import the module that you need:
`zero2hero_core.zero_stage` to edit a clip, `zero2hero_core.video` to read and write one. The same is on the command
line as `zero2hero` or `python -m zero2hero_core`.
"""

__version__ = "0.1.0"
