from PIL import Image, ImageChops, ImageDraw

from data_prep.sample.drawing import SCALE, WHITE, FacePen
from data_prep.sample.people import plan_scenes
from data_prep.sample.portraits import HEAD


def test_a_box_frames_its_face():
    """The edges of the box are those of the outline of the head, to 15 % of half the height of the head."""
    scene = plan_scenes(0, at_the_edge=())[0]
    person = scene.people[-1]
    canvas = Image.new("RGB", (scene.width * SCALE, scene.height * SCALE))
    blank = canvas.copy()
    face = FacePen(ImageDraw.Draw(canvas), person.x, person.y, person.radius)
    face.shape(HEAD, WHITE)
    changed = [value / SCALE for value in ImageChops.difference(canvas, blank).getbbox()]
    for edge, (drawn_at, said) in enumerate(zip(changed, person.box, strict=True)):
        assert abs(drawn_at - said) <= 0.15 * person.radius, f"edge {edge}"
