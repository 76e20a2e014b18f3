# Makes a bare Colab runtime ready. Where `sashimi_lib` can be imported already, it does nothing.
import importlib.util
import os
import subprocess
import sys

if importlib.util.find_spec("sashimi_lib") is None:
    checkout = os.path.abspath(".." if os.path.isdir("../sashimi_lib") else "sashimi-checkout")
    if not os.path.isdir(checkout):
        url = "https://github.com/ORG/REPO"
        subprocess.run(["git", "clone", "--quiet", "--depth", "1", url, checkout], check=True)
    sys.path.insert(0, checkout)
    # Only what is missing is fetched, and without its dependencies: nothing preinstalled is ever replaced.
    needed = ["soundfile", "cffi", "safetensors", "jaxtyping", "wadler_lindig"]
    needed += ["tyro", "docstring_parser", "typeguard"]
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", *missing], check=True)
    importlib.invalidate_caches()
