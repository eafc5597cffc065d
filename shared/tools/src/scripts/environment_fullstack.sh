mkdir -p backend frontend/src || fail "the directories cannot be made"
( cd backend && python_venv backend/ || exit 1
  [ -f requirements.txt ] && had backend/requirements.txt || { printf '%s\n' flask flask-cors gunicorn > requirements.txt && made backend/requirements.txt; }
  pip_install -r requirements.txt "$@"; pip_versions flask Flask ) || exit 1
new_file backend/app.py <<'END'
from flask import Flask, jsonify
from flask_cors import CORS

app = Flask(__name__)
CORS(app)


@app.get("/api/health")
def health():
    return jsonify(status="ok")


if __name__ == "__main__":
    app.run(host="0.0.0.0", port=5000)
END
need_node
( cd frontend && node_package frontend/ || exit 1
  if [ -d node_modules/vite ]; then had "frontend: vite"; else npm_install --save-dev vite && made "frontend: vite"; fi
  npm pkg set scripts.dev="vite --host 0.0.0.0 --port 5173" scripts.build="vite build" ) || exit 1
new_file frontend/index.html <<'END'
<!doctype html>
<html lang="en">
  <head><meta charset="utf-8"><title>App</title></head>
  <body><div id="app"></div><script type="module" src="/src/main.js"></script></body>
</html>
END
new_file frontend/src/main.js <<'END'
const app = document.querySelector("#app");
fetch("/api/health")
  .then((answer) => answer.json())
  .then((health) => { app.textContent = `Backend: ${health.status}`; })
  .catch((error) => { app.textContent = `Backend does not answer: ${error}`; });
END
new_file frontend/vite.config.js <<'END'
export default { server: { allowedHosts: true, proxy: { "/api": "http://127.0.0.1:5000" } } };
END
printf '%s\n' '.venv/' '__pycache__/' 'node_modules/' 'dist/' | new_file .gitignore
