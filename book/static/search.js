// Search excerpts come from the article alone: the theme puts its buttons (".ipynb", ".pdf") into the main part, too.
if (typeof Search !== "undefined") {
  const textOf = Search.htmlToText;
  Search.htmlToText = (html, anchor) => {
    const page = new DOMParser().parseFromString(html, "text/html");
    const main = page.querySelector('[role="main"]');
    const article = main && main.querySelector("article");
    if (article) main.replaceChildren(article);
    return textOf(page.documentElement.outerHTML, anchor);
  };
}
