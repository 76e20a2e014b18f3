// Sphinx's default scores of search results; the how-to page before an index entry that matches exactly (100).
var Scorer = {
  score: ([docname, title, anchor, description, score, filename]) => (docname === "howto" ? score + 100 : score),
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};
