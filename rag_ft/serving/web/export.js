// The conversation as a file.

/** Saves the turns as chat.json or chat.md (`kind`: json or md). */
export function exportThread(turns, kind) {
  const text = kind === "json" ? asJson(turns) : asMarkdown(turns);
  const type = kind === "json" ? "application/json" : "text/markdown";
  const url = URL.createObjectURL(new Blob([text], { type }));
  const link = document.createElement("a");
  link.href = url;
  link.download = `chat.${kind}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url));
}

function asJson(turns) {
  const rows = turns.map(({ question, answers }) => ({
    question,
    answers: answers.map((answer) => ({
      id: answer.id,
      model: answer.model,
      state: answer.state,
      answer: answer.text,
      standalone_question: answer.searched ?? null,
      annotations: answer.annotations,
      citations: answer.citations,
      error: answer.error ?? null,
      rating: answer.rating ?? null,
      correction: answer.correction ?? null,
    })),
  }));
  return `${JSON.stringify({ exported: new Date().toISOString(), turns: rows }, null, 2)}\n`;
}

function asMarkdown(turns) {
  const parts = ["# Chat"];
  for (const { question, answers } of turns) {
    parts.push(`## ${plain(question).replace(/\s*\n\s*/g, " ")}`);
    for (const answer of answers) {
      parts.push(`### ${plain(answer.model)}`);
      if (answer.text) parts.push(plain(answer.text).replace(/\n/g, "\\\n"));
      if (answer.state === "stopped") parts.push("*Stopped.*");
      if (answer.error) parts.push(`*${plain(answer.error)}*`);
      if (answer.correction?.answer) parts.push(`Correction: ${plain(answer.correction.answer)}`);
      for (const citation of answer.citations.filter((c) => c.cited)) {
        const inferred = citation.inferred ? " (inferred)" : "";
        const title = plain(citation.title || citation.document_id);
        const quote = plain(citation.content).replace(/^/gm, "  > ");
        parts.push(`- [\\[${citation.rank}\\] ${title}](<${citation.url}>)${inferred}\n\n${quote}`);
      }
    }
  }
  return `${parts.join("\n\n")}\n`;
}

/** Text that Markdown shows as it stands. */
function plain(text) {
  return text.replace(/[\\`*_[\]<>#~|&]/g, "\\$&");
}
