"""Five objects in two appearances under a moving camera, rendered with Blender's Python module `bpy`, with masks,
cameras and true matches.

Blender works in a process of its own, with any Python that has `bpy` (no torch needed there): `worker` and `scene` run
in it, and like `job`, `objects`, `meshes` and `camera`, which both sides use, they import nothing from outside this
folder but numpy. `matches` and `render` run here. Importing any of these files does not import `bpy`.
"""
