// Sphinx's default scores of search results, but for the how-to page: what is a task there comes first.
var Scorer = {
  score: ([docname, title, anchor, description, score, filename]) => (docname === "howto" ? score + 20 : score),
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};
