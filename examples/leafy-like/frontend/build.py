"""build.py SOURCE TARGET: copies the site; scripts and styles get names by their content, so browsers may keep them forever."""

import hashlib
import sys
from pathlib import Path

source, target = Path(sys.argv[1]), Path(sys.argv[2])
(target / "static").mkdir(parents=True)
page = (source / "index.html").read_text()
for path in sorted((*source.glob("*.js"), *source.glob("*.css"))):
    data = path.read_bytes()
    name = f"{path.stem}.{hashlib.sha256(data).hexdigest()[:12]}{path.suffix}"
    (target / "static" / name).write_bytes(data)
    page = page.replace(f'"{path.name}"', f'"/static/{name}"')
(target / "index.html").write_text(page)
print(f"made {len(list((target / 'static').iterdir()))} files")
