"""The programs that people run: detection in image files and films."""

from gdino_lib.companion import require_data_prep

require_data_prep()
