python_venv ""
[ -f requirements.txt ] && { had requirements.txt; pip_install -r requirements.txt; }
[ $# -gt 0 ] && pip_install "$@"
printf '%s\n' '.venv/' '__pycache__/' '*.pyc' | new_file .gitignore
