"""Build a scene in Blender and set it up for pictures or for geometry. Runs in the Blender process only."""

from __future__ import annotations

from typing import Any

import numpy as np

from .camera import Camera
from .job import SUBSAMPLES, RenderJob
from .meshes import Mesh, lathe
from .objects import OBJECTS, Surface

ROOM = Surface("marble", (0.55, 0.57, 0.60), (0.36, 0.40, 0.46), 1.2, 0.95)
FLOOR = Surface("checker", (0.62, 0.60, 0.56), (0.48, 0.50, 0.52), 1.5, 0.95)
SENSOR = 36.0  # mm
_WALL = [(8.5, 0.0), (8.55, 0.1), (8.7, 0.25), (9.0, 0.3), (9.0, 9.0)]
_LIGHTS = (("SUN", (4.0, -6.0, 8.0), 2.2, 0.2), ("AREA", (-4.5, -4.5, 5.0), 260.0, 3.0))


class BlenderScene:
    """An object in a round room with lights and a camera, all from a job."""

    def __init__(self, job: RenderJob) -> None:
        import bpy

        bpy.ops.wm.read_factory_settings(use_empty=True)
        self._bpy, self._job, self.scene = bpy, job, bpy.context.scene
        content = OBJECTS[job.object]()
        looks = [{name: self._material(name, look) for name, look in table.items()} for table in content.appearances]
        self._parts: list[tuple[Any, list[Any]]] = []
        for place, part in enumerate(content.parts):
            body = self._body(f"{place}-{part.look}", part.mesh, place + 1)
            self._parts.append((body, [table[part.look] for table in looks]))
        floor, wall = lathe([(0.0, 0.0), (8.5, 0.0)], 128), lathe(_WALL, 128)
        for name, mesh, surface in (("floor", floor, FLOOR), ("wall", wall, ROOM)):
            self._body(name, mesh, 0).data.materials.append(self._material(name, surface))
        self._depth = self._depth_material()
        self._add_lights()
        camera = bpy.data.cameras.new("camera")
        self._camera = bpy.data.objects.new("camera", camera)
        self.scene.collection.objects.link(self._camera)
        self.scene.camera = self._camera
        self._set_common()

    def use_appearance(self, appearance: int) -> None:
        """Give all parts their look 0 or 1."""
        for body, looks in self._parts:
            body.data.materials.clear()
            body.data.materials.append(looks[appearance])

    def place_camera(self, camera: Camera) -> None:
        """Put Blender's camera (x right, y up, looking along -z) where `camera` is."""
        from mathutils import Matrix

        data = self._camera.data
        data.sensor_fit, data.sensor_width, data.clip_start, data.clip_end = "HORIZONTAL", SENSOR, 0.01, 100.0
        data.lens = SENSOR * camera.intrinsics[0, 0] / (2 * camera.intrinsics[0, 2])
        pose = np.linalg.inv(camera.world_to_camera) @ np.diag([1.0, -1.0, -1.0, 1.0])
        self._camera.matrix_world = Matrix(pose.tolist())

    def render_picture(self, path: str) -> None:
        """Render the picture into an 8-bit PNG."""
        scene, job = self.scene, self._job
        scene.view_layers[0].material_override = None
        self._set_sampling(job.size, job.samples, 1.5, denoise=True, bounces=2)
        image = scene.render.image_settings
        image.file_format, image.color_mode, image.color_depth = "PNG", "RGB", "8"
        self._render(path)

    def render_geometry(self, path: str) -> tuple[np.ndarray, np.ndarray]:
        """Return depth (float32, along the optical axis) and part (uint8) at the sub-pixels' centres, top row first.

        Both are the emission of a material that all parts get; one sample, and a filter so narrow that it stays at the
        centre. `path` is a temporary EXR file.
        """
        scene, size = self.scene, self._job.size * SUBSAMPLES
        scene.view_layers[0].material_override = self._depth
        self._set_sampling(size, 1, 0.01, denoise=False, bounces=0)
        image = scene.render.image_settings
        image.file_format, image.color_mode, image.color_depth, image.exr_codec = "OPEN_EXR", "RGB", "32", "ZIP"
        self._render(path)
        loaded = self._bpy.data.images.load(path)
        loaded.colorspace_settings.name = "Non-Color"
        pixels = np.empty(size * size * 4, np.float32)
        loaded.pixels.foreach_get(pixels)
        self._bpy.data.images.remove(loaded)
        rows = pixels.reshape(size, size, 4)[::-1]
        return np.ascontiguousarray(rows[..., 0]), np.rint(rows[..., 1]).astype(np.uint8)

    def _render(self, path: str) -> None:
        self.scene.render.filepath = path
        self._bpy.ops.render.render(write_still=True)

    def _set_common(self) -> None:
        scene, job = self.scene, self._job
        scene.render.engine = "CYCLES"
        scene.cycles.device, scene.cycles.seed = "CPU", job.seed
        scene.cycles.use_adaptive_sampling = False
        scene.render.resolution_percentage = 100
        scene.render.use_file_extension = False
        scene.render.dither_intensity = 0.0
        scene.render.use_persistent_data = True
        if job.threads:
            scene.render.threads_mode, scene.render.threads = "FIXED", job.threads
        scene.view_settings.view_transform, scene.view_settings.look = "Standard", "None"

    def _set_sampling(self, size: int, samples: int, width: float, *, denoise: bool, bounces: int) -> None:
        scene = self.scene
        scene.render.resolution_x = scene.render.resolution_y = size
        scene.cycles.samples, scene.cycles.use_denoising = samples, denoise
        scene.cycles.pixel_filter_type, scene.cycles.filter_width = "BLACKMAN_HARRIS", width
        scene.cycles.max_bounces = bounces

    def _body(self, name: str, mesh: Mesh, index: int) -> Any:
        data = self._bpy.data.meshes.new(name)
        data.from_pydata(mesh.vertices.tolist(), [], [list(face) for face in mesh.faces])
        if mesh.smooth:
            data.polygons.foreach_set("use_smooth", [True] * len(data.polygons))
        data.update()
        body = self._bpy.data.objects.new(name, data)
        body.pass_index = index
        self.scene.collection.objects.link(body)
        return body

    def _add_lights(self) -> None:
        from mathutils import Vector

        for kind, position, power, size in _LIGHTS:
            data = self._bpy.data.lights.new(kind, kind)
            data.energy = power
            if kind == "SUN":
                data.angle = size
            else:
                data.size = size
            lamp = self._bpy.data.objects.new(kind, data)
            lamp.location = position
            lamp.rotation_euler = (-Vector(position)).to_track_quat("-Z", "Y").to_euler()
            self.scene.collection.objects.link(lamp)
        world = self._bpy.data.worlds.new("world")
        world.use_nodes = True
        sky = world.node_tree.nodes["Background"].inputs
        sky["Color"].default_value, sky["Strength"].default_value = (0.75, 0.82, 0.95, 1.0), 0.55
        self.scene.world = world

    def _depth_material(self) -> Any:
        """A material that emits (depth along the optical axis, index of the part, 0)."""
        material, nodes, link = self._new_material("depth")
        camera, info = nodes.new("ShaderNodeCameraData"), nodes.new("ShaderNodeObjectInfo")
        both, emission = nodes.new("ShaderNodeCombineXYZ"), nodes.new("ShaderNodeEmission")
        link(camera.outputs["View Z Depth"], both.inputs["X"])
        link(info.outputs["Object Index"], both.inputs["Y"])
        link(both.outputs["Vector"], emission.inputs["Color"])
        link(emission.outputs["Emission"], nodes.new("ShaderNodeOutputMaterial").inputs["Surface"])
        material.cycles.emission_sampling = "NONE"
        return material

    def _material(self, name: str, surface: Surface) -> Any:
        material, nodes, link = self._new_material(name)
        shader = nodes.new("ShaderNodeBsdfPrincipled")
        shader.inputs["Roughness"].default_value = surface.roughness
        link(shader.outputs["BSDF"], nodes.new("ShaderNodeOutputMaterial").inputs["Surface"])
        colours = [_linear(colour) for colour in (surface.first, surface.second)]
        if surface.pattern == "plain":
            shader.inputs["Base Color"].default_value = colours[0]
            return material
        mix = nodes.new("ShaderNodeValToRGB")
        mix.color_ramp.interpolation = "LINEAR"
        (low, high), edge = mix.color_ramp.elements, (0.3, 0.7) if surface.pattern == "marble" else (0.45, 0.55)
        low.position, high.position = edge
        low.color, high.color = colours
        link(self._pattern(nodes, link, surface), mix.inputs["Fac"])
        link(mix.outputs["Color"], shader.inputs["Base Color"])
        return material

    def _pattern(self, nodes: Any, link: Any, surface: Surface) -> Any:
        """The output that runs from 0 to 1 in the pattern, in the object's coordinates."""
        kinds = {
            "stripes": ("ShaderNodeTexWave", "Fac"),
            "bands": ("ShaderNodeTexWave", "Fac"),
            "checker": ("ShaderNodeTexChecker", "Fac"),
            "spots": ("ShaderNodeTexVoronoi", "Distance"),
            "marble": ("ShaderNodeTexNoise", "Fac"),
        }
        kind, output = kinds[surface.pattern]
        texture, place = nodes.new(kind), nodes.new("ShaderNodeTexCoord")
        link(place.outputs["Object"], texture.inputs["Vector"])
        texture.inputs["Scale"].default_value = surface.scale
        if kind == "ShaderNodeTexWave":
            texture.bands_direction = "Z" if surface.pattern == "bands" else "X"
            texture.inputs["Scale"].default_value = surface.scale * np.pi / 10  # Blender's waves are 10 / pi a unit
        names = [item.name for item in texture.outputs]
        return texture.outputs[output if output in names else "Factor"]

    def _new_material(self, name: str) -> tuple[Any, Any, Any]:
        material = self._bpy.data.materials.new(name)
        material.use_nodes = True
        material.node_tree.nodes.clear()
        return material, material.node_tree.nodes, material.node_tree.links.new


def _linear(colour: tuple[float, float, float]) -> tuple[float, float, float, float]:
    """sRGB to linear light (IEC 61966-2-1), opaque."""
    values = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
    return (values[0], values[1], values[2], 1.0)
