python_venv ""
pip_install numpy pandas matplotlib scikit-learn jupyterlab "$@"
pip_versions numpy pandas matplotlib scikit-learn jupyterlab
for d in data notebooks; do if [ -d "$d" ]; then had "$d/"; else mkdir -p "$d" && made "$d/"; fi; done
printf '%s\n' '.venv/' '__pycache__/' '.ipynb_checkpoints/' | new_file .gitignore
