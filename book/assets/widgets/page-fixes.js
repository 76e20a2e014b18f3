// Two repairs that every page with a slider needs. Loaded before the theme's own script, so not deferred.

// The theme swaps each <i> icon for an SVG, after which the Play button throws and never starts: leave icons alone.
window.FontAwesomeConfig = { observeMutations: false };

// The widget manager calls the MathJax 2 queue: hand its calls to MathJax 3.
window.addEventListener("load", () => {
  const mathjax = window.MathJax;
  if (!mathjax || mathjax.Hub) return;
  mathjax.Hub = {
    Queue: (job) => {
      const element = job && job[2];
      if (element && mathjax.typesetPromise) mathjax.typesetPromise([element]).catch(console.warn);
    },
  };
});
