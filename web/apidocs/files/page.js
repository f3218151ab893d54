"use strict";
// Shows the document that the address names (?document=stack-b), and goes to another when one is chosen.
(() => {
  const choice = document.getElementById("document");
  const wanted = new URLSearchParams(location.search).get("document");
  if ([...choice.options].some((option) => option.value === wanted)) {
    choice.value = wanted;
  }
  choice.addEventListener("change", () => {
    location.assign("?document=" + encodeURIComponent(choice.value));
  });
  document.getElementById("source").href = "../openapi/" + choice.value + ".yaml";
  SwaggerUIBundle({
    url: choice.value + ".yaml", // the same document, with all that it refers to in one piece
    dom_id: "#page",
    deepLinking: true,
    docExpansion: "list",
    defaultModelsExpandDepth: 0,
    persistAuthorization: false, // a key is forgotten with the page
    queryConfigEnabled: false, // the address can't point the page, and a key typed into it, at another document
    validatorUrl: null, // nobody else is asked whether the document is valid
  });
})();
