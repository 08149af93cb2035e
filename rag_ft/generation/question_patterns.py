"""How questions are marked in many languages, and how they refer to a text that they lack."""

from __future__ import annotations

import re


def asks(question: str) -> bool:
    """Whether a text is marked as a question, as its language marks questions."""
    bare = question.rstrip(" !！\"'”’»)」』】")
    return bare.endswith(("?", "？", "؟", "\u037e", "⸮", "፧")) or bool(_ASKS.search(bare))


def capitalises_nouns(text: str) -> bool:
    """Whether a text is of a language that writes every noun in upper case (German), as far as
    its function words show it."""
    return bool(_GERMAN.search(text))


_GERMAN = re.compile(
    r"\b(?:der|dem|das|den|ist|wurden?|wird|werden|hat|haben|welche[mnrs]?|wann|wer|wie|wo|warum"
    r"|womit|wofür|worauf)\b",
    re.IGNORECASE,
)
_ASKS = re.compile(
    # Greek asks with a semicolon, Armenian with a mark inside the word.
    r"[\u0370-\u03ff\u1f00-\u1fff][^;]*;$|[\u0531-\u058f]*՞"
    # Japanese and Korean: the ending of the sentence.
    r"|(?:か|かな|かしら|かね|よね|でしょう|のか|ですの)。?$"
    r"|(?:どこ|いつ|誰|だれ|どなた|何|いくら|いくつ|どれ|どちら|なぜ)(?:まで)?。?$|(?:까|나요|가요|는가|니까|은지|을까요)[.。]?$"
    # Chinese: particles at the end, question words anywhere.
    r"|[吗嗎呢么麼][。．.]?$|什么(?![都也])|什麼(?![都也])|甚麼|为什么|為什麼|为何|為何"
    r"|谁(?![都也])|誰(?![都也]|か[らにがをのと])|哪|几(?![乎何])|幾"
    r"|多少|多[大长長久高远遠宽寬深重厚快]|怎|啥|咋|[能可会會]否|(?<!任)何[年月日人种種]|如何|何时|何時|何地|何处|何處|是否|是不是|有没有|有沒有"
    # Thai, Lao, Khmer, Burmese.
    r"|อะไร|ใคร|ไหม|มั้ย|ไหน|เมื่อไร|เมื่อไหร่|เมื่อใด|ทำไม|เหตุใด|อย่างไร|ยังไง"
    r"|เท่าไร|เท่าไหร่|เท่าใด|กี่|หรือไม่|หรือเปล่า|หรือยัง|ใด"
    r"|ຫຍັງ|ຫຍັງ|ໃຜ|ໃສ|ບໍ່?$|ເທົ່າໃດ|ເທົ່າໃດ|ເມື່ອໃດ|ແນວໃດ|ຍ້ອນຫຍັງ|ຈັກ|ໃດ"
    r"|អ្វី|នរណា|អ្នកណា|ឯណា|ណា|ប៉ុន្មាន|ហេតុអ្វី|យ៉ាងណា|យ៉ាងម៉េច|ឬទេ|ទេ[។]?$|ឬ[។]?$"
    r"|လဲ|လား|နည်း[။]?$|ဘာ|ဘယ်|ဘယ်သူ"
)


def _pattern(*parts: str) -> re.Pattern[str]:
    return re.compile("|".join(parts), re.IGNORECASE)


_GIVEN = (
    r"(?:given|above[- ]mentioned|aforementioned|provided|following|preceding|previous|above"
    r"|supplied|presented)"
)
# References to the passage. The detail of a rejected pair shows the match of the first pattern.
REFERENCES = (
    # English, beside the rules of leaning.py.
    _pattern(
        rf"\b{_GIVEN}\s+(?:texts?|contexts?|contents?|information|details?|data|facts?|material"
        r"|extract|code|examples?|snippets?|quotes?|quotation|story|document|article|source|table"
        r"|figure|image|description|passages?|paragraphs?|sections?|sentences?|study|report)\b",
        r"\b(?:details?|information|data|facts?|scenario|situation|case|example)"
        r"\s+(?:given|provided|presented|supplied|described)\b",
        r"\b(?:underlined|highlighted|quoted)\s+(?:word|phrase|text|part|passage|line|sentence)s?\b"
        r"|\bthe\s+code\s+(?:snippet|block|listing)\b",
        # Numbered parts, and what stands above or below.
        r"\b(?:figure|fig\.|table|section|equation|eq\.|appendix|listing|example|exhibit)"
        r"\s*\(?(?:\d(?![\d.]*\s+of\s+(?:the\s+)?(?-i:[A-Z]))|[A-Z]\d|[IVX]+\b)"
        r"|\b(?:appendix|exhibit)\s+(?-i:[A-H])\b",
        r"\b(?:code|examples?|snippets?|figures?|tables?|lists?|diagrams?|images?|equations?"
        r"|formulas?|output|program|text|passage|data|information|details?|results?|statements?"
        r"|paragraphs?|sentences?|dialogue)\s+(?:above|below)\b",
    ),
    # German, French, Spanish, Italian, Portuguese, Dutch, Russian.
    _pattern(
        r"\b(?:im|dem|diesem|den|diesen|der|dieser|dieses|vorliegenden)"
        r"\s+(?:Text|Textes|Abschnitt|Passage|Absatz|Textabschnitt|Auszug)\b",
        r"\b(?:diese[nmrs]?|vorliegende[nmrs]?)\s+(?!(?:Jahr|Monat|Woche|Sommer|Winter|Zeit|Fall"
        r"|Tag)\w*)(?-i:[A-ZÄÖÜ])\w+|\bhatte?\s+(?:das|dies)\?"
        r"|\b(?:die|der|das|dem)\s+(?:Geschichte|Erzählung|Handlung|Hauptfigur|Artikel|Bericht"
        r"|Beitrag|Kapitel|Dokument|Diagramm|Interview|Gespräch)\s*\?"
        r"|\bim\s+\w+ten\s+(?:Satz|Absatz|Abschnitt|Kapitel|Teil)\b(?!\s+(?:von|des|der)\b)",
        r"\b(?:el|la)\s+(?:artículo|documento|relato|cuento|capítulo|entrevista|encuesta)\s*\?"
        r"|\b(?:le|la|l['’])\s?(?:article|document|récit|histoire|chapitre|entretien|enquête)\s*\?",
        r"^¿?\w+\s\w+\s(?:después|luego|entonces)\?|^\w+\s(?:\w+[\s-]){1,3}(?:ensuite|après)\s?\?",
        r"\b(?:beschreibt|erwähnt|nennt|sagt|behandelt|erklärt)\s+(?:der|das|die)\s+(?:Artikel|Text"
        r"|Dokument|Bericht|Studie|Abschnitt|Kapitel)\b(?!\s+(?:von|des|der|auf|über)\b)",
        r"\bzeigt\s+(?:die|das)\s+(?:Abbildung|Tabelle|Diagramm|Grafik)\b(?!\s+(?:von|des|der)\b)",
        r"\b(?:in|aus|laut)\s+(?:der|dem)\s+(?:Tabelle|Abbildung|Grafik|Diagramm|Bild|Schaubild)\b"
        r"(?!\s+(?:von|des|der)\b)",
        r"\b\w*(?:thema|inhalt|aussage|idee|gedanke|titel|zweck|ziel|absicht|fazit)\s+(?:des"
        r"|der)\s+"
        r"(?:Textes|Artikels|Abschnitts|Absatzes|Kapitels|Berichts|Dokuments|Passage|Geschichte)\b",
        r"\b(?:obig|folgend|gegeben|vorliegend|angegeben|bereitgestellt|vorstehend|vorangehend"
        r"|nachstehend|genannt)e[nmrs]?\s+(?:Text|Kontext|Inhalt|Information|Angabe|Passage|Absatz"
        r"|Abschnitt|Auszug|Dokument|Artikel|Beispiel|Code|Tabelle|Abbildung)\w*",
        r"\b(?:dem|diesem)\s+Kontext\b|\b(?:laut|gemäß)\s+(?:Text|Kontext|Artikel|Dokument|Autor"
        r"|Verfasser|Studie|Bericht|Tabelle|Grafik)(?:in)?\b|\bZeile\s+\d",
        r"\b(?:der|die|den|dem|des)\s+(?:Autor|Autors|Autoren|Autorin|Verfasser|Verfassers"
        r"|Verfasserin|Erzählers?|Befragten|Probanden)\b(?!\s+(?:von|des|der)\b(?!\s+(?:Studie"
        r"|Untersuchung|Arbeit|Textes)\b))",
        r"\b(?:in|aus|laut|gemäß|nach)\s+(?:der|dem|dieser|diesem)\s+(?:Studie|Bericht|Artikel"
        r"|Dokument|Arbeit|Untersuchung)\b|\b(?:diese[rs]?|die)"
        r"\s+Studie\b(?!\s+(?:von|des|der)\b)",
        r"\b(?:Abbildung|Abb\.|Tabelle|Abschnitt|Gleichung|Kapitel)\s*\d"
        r"|\b(?:Beispiel|Code|Text|Tabelle|Abbildung)\s+(?:oben|unten)\b"
        r"|\b(?:oben|unten|hier)\s+(?:genannt|beschrieben|erwähnt|angegeben|aufgeführt|gezeigt)",
        r"\ble\s+(?:rapport|document|récit)\s+\w+-(?:t-)?il\b",
        r"\b(?:le|ce|du|au)\s+(?:(?:premier|deuxième|second|troisième|dernier)\s+)?(?:texte"
        r"|passage|paragraphe|extrait|contexte)\b"
        r"(?!\s+(?:d[eu]s?\b|d['’]))",
        r"\bdans\s+(?:le|la)\s+(?:tableau|figure|graphique|schéma|diagramme|document|chapitre)\b"
        r"(?!\s+(?:d[eu]s?\b|d['’]))",
        r"\bce(?:t|tte)?\s+(?:document|article|étude|rapport|section|chapitre|tableau|exemple)\b",
        r"\b(?:mostra|muestra|montre)\s+(?:l[ea]|el|il|[oa])\s+(?:gr[áa]fico|graphique|tableau"
        r"|tabla|tabella|tabela|figura|figure|imagen|immagine|imagem|image)\b(?!\s+d)",
        r"\b(?:dit|mentionne|indique|décrit|précise|affirme|explique)\s+le\s+(?:document|rapport)\b"
        r"(?!\s+(?:de|du|des)\b)|ci-dessus|ci-dessous",
        r"\b(?:texte|passage|contexte|contenu|extrait|document|article|informations?|exemple|code)"
        r"\s+(?:donnée?s?|fournie?s?|suivante?s?|précédente?s?)\b",
        r"\bl['’](?:auteure?|autrice|étude|extrait|article)\b(?!\s+(?:de|du|des)\b)",
        r"\bles\s+(?:auteurs|chercheurs|personnes\s+interrogées)\b(?!\s+(?:d[eu]s?\b|d['’]))"
        r"|\b(?:le\s+narrateur|la\s+narratrice)\b(?!\s+(?:d[eu]\b|d['’]))",
        r"\b(?:Tableau|Équation)\s*\d",
        r"\b(?:el|este|del|al)\s+(?:(?:primer|segundo|tercer|último|presente)o?\s+)?(?:texto"
        r"|pasaje|fragmento|párrafo|contexto)\b",
        r"\b(?:en|según)\s+(?:el|la)\s+(?:figura|tabla|imagen|cuadro)\b(?!\s+d)"
        r"|\b(?:el|la)\s+(?:gráfic[oa]|diagrama)\b(?!\s+(?:de|que|sobre)\b)",
        r"\b(?:[nd]?el|il|la|[nd]?ella|[nd]?ello|dal)\s+(?:studio|grafico|tabella"
        r"|estratto)\b(?!\s+(?:d|che))",
        r"\b(?:o|a|no|na|do|da)\s+(?:gráfico|tabela|trecho|relatório|diagrama)\b(?!\s+(?:d|que"
        r"|sobre))",
        r"\bна\s+(?:рисунке|графике|диаграмме|схеме|фотографии|картинке)\b(?!\s+[А-ЯЁ])"
        r"|^(?:Где|Когда|Как|Почему|Что|Кто|Куда|Зачем)\s+(?:он[аио]?|его|её|их|ему|ей|им)\b"
        r"|\b(?:привед[её]н|описан|указан|показан|представлен)н\w+\s+(?:ниже|выше)\b"
        r"|\bэт(?:от|ого|ому|им|ом|а|ой|у|и|их|ими)\s+\w+",
        r"\best[ea]\s+(?:documento|artículo|estudio|informe|sección|capítulo|apartado|ejemplo)\b",
        r"\b(?:en|dice|menciona|indica|describe|explica)\s+el\s+documento\b(?!\s+(?:de|del|que)\b)",
        r"\b(?:texto|pasaje|tabla|gráfico|figura|contexto|contenido|fragmento|documento|artículo"
        r"|información|ejemplo"
        r"|código)\s+(?:anterior|siguiente|dad[oa]|proporcionad[oa]|presentad[oa]|de arriba"
        r"|de abajo|fornecid[oa]|apresentad[oa]|acima|abaixo)\b",
        r"\b(?:según|segundo|conforme|selon|secondo)\s+(?:la|a|el|o|le|il)"
        r"\s+(?:tab(?:la|ela|ella)|tableau|figura|figure|gr[áa]fic[oa]|graphique)\b(?!\s+d)",
        r"\b(?:el|del|la|los|las)\s+autor(?:a|es|as)?\b"
        r"(?!\s+de(?!l\s+(?:estudio|artículo|texto)\b))"
        r"|\bel\s+(?:estudio|informe)\b(?!\s+(?:de|\w+(?:al|iv[oa]|ic[oa]|ari[oa])\b))"
        r"|\b(?:el|la|los|las|al|del)\s+(?:narrador|entrevistado|investigador|encuestado)(?:e?s"
        r"|as?)?\b(?!\s+de)",
        r"\bsegún\s+(?:el|la)\s+(?:documento|artículo|contenido|información)\b",
        r"\b(?:Figura|Tabla|Sección|Ecuación|Tabella|Sezione|Tabela|Seção)\s*\d",
        r"\b(?:il|questo|nel|del|dal)\s+(?:testo|brano|paragrafo|contesto)\b",
        r"\bquest[oa]\s+(?:documento|articolo|studio|rapporto|sezione|capitolo|esempio)\b",
        r"\b(?:dice|menziona|indica|afferma|descrive|spiega)\s+il\s+documento\b(?!\s+d)"
        r"|\bnel\s+documento\b(?!\s+(?:d|che\b))|\b(?:l|nell|dall|dell)['’]estratto\b(?!\s+d)",
        r"\b(?:testo|brano|contesto|contenuto|documento|articolo|informazioni|esempio|codice)\s+"
        r"(?:fornit[oie]|dat[oie]|seguent[ei]|precedent[ei]|riportat[oie]|sopra|sotto)\b",
        r"\bsecondo\s+l['’](?:articolo|estratto)\b(?!\s+(?:d|\d))",
        r"\bl['’]autor(?:e|ice)\b(?!\s+d)|\bgli\s+autori\b(?!\s+d)|\blo\s+studio\b(?!\s+d)",
        r"\b(?:informaç(?:ão|ões)|conteúdo|exemplo|artigo)\s+"
        r"(?:fornecid|apresentad|dad|anterior|seguinte|acima|abaixo)\w*",
        r"\b(?:o|este|no|do|ao)\s+(?:texto|trecho|parágrafo|contexto)\b",
        r"\b(?:o|a|os|as|do|da|dos)\s+autor(?:a|es|as)?\b(?!\s+d(?!o\s+(?:estudo|artigo|texto)\b))"
        r"|\b(?:este|o)\s+estudo\b(?!\s+d)",
        r"\b(?:[nd]?est[ea])\s+(?:capítulo|documento|artigo|relatório|trecho|exemplo)\b",
        r"\b(?:diz|menciona|indica|afirma|descreve|explica)\s+o\s+documento\b(?!\s+d)"
        r"|\bno\s+documento\b(?!\s+(?:d|que\b))",
        r"\b(?:de|deze)\s+(?:passage|tekst|alinea|context|auteur)\b",
        r"\b(?:в|этом|данном)\s+(?:тексте|отрывке|абзаце|контексте|фрагменте)\b"
        r"|\bв\s+(?:документе|статье)\s+(?:о|об|про)\b",
        r"\b(?:привед[её]нн|данн|следующ|предыдущ|предоставленн|указанн|вышепривед[её]нн)\w+\s+"
        r"(?:текст|контекст|отрыв|фрагмент|абзац|стать|документ|информаци|пример|код|содержани)\w*",
        r"\b(?:согласно|по)\s+(?:тексту|контексту|документу|статье|отрывку|содержанию)\b",
        r"\b(?:мысль|тема|идея|содержание|смысл)\s+(?:текста|отрывка|статьи|абзаца)\b",
        r"\b(?:мнению|словам)\s+автор\w*|\bавтор(?:ы|а|ов)?\b"
        r"(?!\s+(?:романа|книги|повести|песни|картины|музыки|проекта|(?-i:[«А-ЯЁ])))",
        r"\b(?:этой|данной|этом|данном)\s+(?:стать|работ|исследовани|документ|отч[её]т|раздел|глав)"
        r"\w*",
        r"\b(?:рисун\w+|рис\.|таблиц\w+|раздел\w*)\s*\d|\b(?:пример|код)\s+(?:выше|ниже)\b",
    ),
    # Chinese, Japanese, Korean, Arabic.
    _pattern(
        r"(?:[该該此]|(?<![根基版课課日样樣])本)(?:文章|文档|文檔|章|节|節|报告|報告|论文|論文)"
        r"|[这這该該此][篇段则則](?:文章|短文|文字|材料|报道|報導|话|話)"
        r"|本文|[上下前]文(?!明|化)|这段|該段|该段|短文中|文章[中里裡]?(?:提到|提及|指出|认为|認為|介绍|介紹|描述)"
        r"|[上下](?:表|图|圖)中|(?:^|[，,：:、])文中|(?<!》的)作者|本研究|该研究|這項研究|这项研究",
        r"(?:上述|以上|下列|以下|给定的?|給定的?|所给的?|提供的?|前述|上面的?|下面的?)"
        r"(?:的)?(?:文本|文章|内容|內容|信息|資訊|段落|材料|上下文|资料|資料|代码|代碼|例子|示例|图|圖|表)",
        r"(?:根据|根據|按照|依据|依據)(?:文章|文本|内容|內容|上下文|材料|资料|段落|文中)",
        r"[图圖表]\s*\d|第\s*\d+\s*[节節章]",
        r"(?:文章|文書|テキスト|資料)によ(?:ると|れば)|(?:上|下)の(?:コード|例|図|表|文章|文)",
        r"この文(?=[のはがをにで])|文章[中内]|この(?:文章|文書|テキスト|文脈|段落|資料|論文|記事|研究|例|章|節|図|表)|上記の|下記の|前述の",
        r"(?:以下|次|与えられた|提供された|提示された)の?(?:文章|テキスト|文脈|内容|情報|段落|資料|コード|例)",
        r"(?<!』の)(?:著者|筆者)|本論文|本研究|(?:図|表)\s*\d",
        r"이 글|본문|(?<!의 )저자|필자|글쓴이"
        r"|본\s?(?:논문|보고서)|본 연구|이 연구|(?:그림|표)\s*\d",
        r"(?:위|다음|주어진|제공된|제시된|앞의|아래|이)\s*(?:의\s*)?(?:글|텍스트|문맥|내용|정보|문서|문단"
        r"|지문|기사|코드|예시|예제)",
        r"(?<![가-힣])(?:이|위|다음|아래)\s*(?:장|절|단락|표|그림|도표|논문|보고서)(?:에|은|는|의|을|를)",
        r"지문에(?:서)?\s*(?:나온|따르면|언급)",
        r"النص|الفقرة|المؤلف(?!\s+\S+\s+كتاب)|هذه الدراسة",
    ),
)
