"""Abbreviations after which no sentence ends, of English, German, French, Spanish, Italian,
Portuguese, Dutch and Russian.

Only those that are no common words: "He was ill." ends a sentence, whatever "ill." may stand for.
"""

_ANY_CASE = """
    dr drs mr mrs messrs prof profs assoc asst univ dept inst ltd inc corp bros mfg mfr assn attn
    approx incl excl viz vs cf resp eds esp govt hosp intl natl ibid bldg blvd hwy pkwy ste ca jr
    esq eq eqs fig figs sects secs chs chap chaps refs vols suppl supp tbl

    abb abt allg amtl anh anl anm aufl bd bearb bes betr bez bspw bzw christl dgl dipl dt ehem engl
    entspr evtl exkl frz geb gebr gegr gest ggf ggü hrsg ing inh inkl insb insbes jahrg jh jhdt joh
    kap kto mio mrd nachf nachm nördl östl österr röm sog staatl stellv südl taf techn tgl theol
    tsd urspr usw versch vgl vorm westl wiss ziff zus zzgl übers

    anc appt apr auj av bât boul cie coll dép éd éds édit env ets éts fasc fém gén hôt masc mgr mlle
    mlles mme mmes parag pl rédac réf rés sté tél vve

    admón almte aprox arq atte avda cía cnel comdte ctra dcha depto dña dpto dra dres dto edif
    entlo excma excmo fca fdez gral hno hnos ilma ilmo izq izqda lcda lcdo lda ldo lic mtra mtro
    núm pbro pág págs párr pdta pdte plza profa pte pza rvda rvdo sdad sgto sra sras sres srta supl
    teléf tfno tte ud uds urb vd vds

    avv cfr dott egr geom pag pagg sig sigg spett exma exmo engº lgo apto bijv blz dhr mevr

    авт адм акад бул букв вв вып гг гл гос гр деп дер дисс дол долл доц ежедн зам зап заруб изд илл
    им инж иностр инст кап канд кв корп мкр млн млрд моск наб напр нач нед обл оз пгт пер пл полк
    пос пр прибл прил прим просп проф разд ред респ рис руб св см сокр сост ср стр табл тел тов тыс
    ул чл ген"""
# In upper case these are names and words, in lower case those further below.
_LOWER = "al arch bibl deg dent habil hist jur kath med nat phil rer str temp trad mons"
_CAPITALISED = """
    Abp Adm Ald Amb Atty Ave Bp Brig Capt Cdre Cmdr Co Col Cpl Dep Det Dir Ens Ext Fr Gen Gov Hon
    Insp Lt Maj Min Ms Mt Op Pres Pvt Rep Rev Sec Sen Sgt Sr St Supt Treas Vol
    Acad Appl Biol Chem Ecol Environ Eur Math Phys Proc Sci Soc Technol
    Ariz Calif Colo Conn Fla Mich Minn Okla Tenn Wis Wyo
    Jan Feb Mar Apr Jun Jul Aug Sep Sept Oct Nov Dec
    Bgm Fa Frl Hauptm Hr Hrn Mag Präs Str Tel Verf Vors
    Apt Const Dn EE Eng Fdo Ind MM Mons Pol Sta Sto Trav"""
ABBREVIATIONS = frozenset(_ANY_CASE.split())
AS_WRITTEN = frozenset((*_LOWER.split(), *_CAPITALISED.split()))
