"""What people run: detection in files and films."""

from gdino_lib.companion import require_data_prep

require_data_prep()
