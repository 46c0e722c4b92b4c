// Sets the theme before the first paint; a classic script, so that it runs before the body is read.
(() => {
  try {
    const theme = JSON.parse(localStorage.getItem("monoscope.theme") || "null");
    if (theme === "dark" || theme === "light") document.documentElement.dataset.theme = theme;
  } catch { /* storage is shut off: the system's theme it is */ }
})();
